"""Who carries requests to parts: this process, all ranks; how they meet, and how a run is told to stop."""
