"""Text corpora for language models: documents, packed tokens, streams that can be resumed, weighted mixtures.

Nothing here knows a tokenizer: whoever reads tokens hands in how text is encoded.
"""
