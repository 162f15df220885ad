"""Reading the text in images, and the gate that keeps drawn instructions from a judge."""
