"""From a question to an answer: prompts, chat formats, reading a memory, generating."""
