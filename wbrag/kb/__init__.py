"""The knowledge base on disk, its rows in Lance. It is to take the place of wbrag.store, which the job still uses.

place.py: where a store lies; versions.py: which version is current; rows.py: Lance; vectors.py: FAISS; changes.py: new
versions; search.py: KnowledgeBase; verify.py: is every byte what was written.
"""
