"""An embedded world as stages: subjects, prompts, drafts, views and a reader; no model."""
