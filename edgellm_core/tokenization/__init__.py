"""The tokenizer and the chat templates of a bundle: written, compared with transformers' own, mended or refused."""
