"""Text: tokens of a language model, and prompts made of labels."""
