"""The results document and what is made of it."""
