"""Running models of transformers and diffusers: their files, loading on demand, memory, processors."""
