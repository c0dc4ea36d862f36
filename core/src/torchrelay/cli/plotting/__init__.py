"""What `torchrelay plot` is made of: the log (log), what to draw of it (panels), and how (png, terminal).

Imports no torch, and matplotlib and plotext only when they draw.
"""
