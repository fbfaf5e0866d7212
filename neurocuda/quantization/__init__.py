"""Graphs whose weights have few bits."""
