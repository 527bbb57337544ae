"""The life of a trained knowledge base: it follows its documents (`update`), people judge its units (`review`), and
what has to go goes for good (`purge`).
"""
