"""The offline model: a service with Gemini's protocol that writes articles from the given sources alone.

It is used without a Gemini key, so that the real SDK's path always runs. Its version, a header of each answer and the
last line of each article say `offline model`.
"""
