"""What judges ask: closed questions about images, and prompts split into questions."""
