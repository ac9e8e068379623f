"""Documents, instructions and questions as people write them: what the generalist is trained on."""
