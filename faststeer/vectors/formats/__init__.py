"""Codecs of the files and objects that hold steering vectors: faststeer's and other programs'."""
