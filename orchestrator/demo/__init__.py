"""`onelane demo`: a folder of texts, published by five accounts side by side, with proof at the end.

    texts.py     the folder's files as sources, and who publishes them
    run.py       the order of things: start, jobs, watch, proof, leave running
    progress.py  the live view, or plain lines where there is no terminal
    proof.py     what the attempts and the demo blog itself say afterwards
    report.py    the result, as JSON and as tables

Invariant: a run that is interrupted anywhere, kill -9 included, is taken up by the next one on the same data directory:
a job is made only for a text that has none, and a job that failed goes on from its failed step.
"""

from .run import run

__all__ = ["run"]
