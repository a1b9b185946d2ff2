"""The offline model: a service of ours that speaks Gemini's protocol and writes from the given sources alone.

It stands in while there is no Gemini key, so that the real SDK's path is always the one that runs. It never passes as
Gemini: its version, a header of each answer and the closing line of each article say `offline model`.
"""
