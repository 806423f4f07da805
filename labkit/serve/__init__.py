"""Serve models through an OpenAI-compatible API and a chat page.

batching    many requests, one pass: what waits is answered together
limits      what a request may ask for, and the sentence when it asks for more
server      transformers' own server app, with named models, on a port of its own
chat        a page on that API, with several models side by side and speech
modal_app   the same server on a rented GPU (an example for Modal)
"""
