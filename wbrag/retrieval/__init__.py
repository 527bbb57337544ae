"""The encoder and the actors that hold it, the merge of passages and units, searches made while answers are made."""
