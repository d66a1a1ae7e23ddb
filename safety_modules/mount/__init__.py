"""What may stand on a live model for the length of one call: LoRA, changed outputs, and its flags as found."""
