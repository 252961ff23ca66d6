"""A blind listening test over the examples of a report: sounds, their order, the page, the answers, what they say.

For others: `read_listening(path)` and `summarise(listening, report=...)` in `analysis.py`, and `report_identity` in
`source.py`.
"""
