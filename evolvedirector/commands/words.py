"""The words of the command line, as the front door and shell completion know them."""

LIGHTNING_WORDS = ("fit", "validate", "test", "predict")
FURTHER_WORDS = ("check", "compare", "data", "assets", "report", "judge", "teach", "doctor", "completion")
