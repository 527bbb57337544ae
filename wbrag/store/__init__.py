"""The knowledge base on disk: versions of base and write-back, their FAISS indices, and the search over both."""
