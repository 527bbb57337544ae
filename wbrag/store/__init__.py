"""The knowledge base on disk. place.py: where a store lies; versions.py: which version is current; rows.py: its rows in
Lance; vectors.py: FAISS over them; changes.py: new versions; build.py: on Ray; search.py: KnowledgeBase, what readers
open; topk.py: exact top k; verify.py: is every byte what was written; exchange.py: FlashRAG's files out and in.
"""
