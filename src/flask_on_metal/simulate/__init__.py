"""bin/simulate: the course examiner's load, replayed against a newsboard, with every post accounted for.

content   what is posted: any post can be made again from its seed and its number
load      sends on a schedule that a slow server cannot slow down, and notes each post's one outcome
readback  asks the board for everything it said it stored, and compares
report    the figures, the verdict, and how both are shown
cli       options, progress, signals, exit status
"""
