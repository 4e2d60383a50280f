"""bin/bench: the same load on several stacks, side by side, as numbers and pictures.

app      what the stacks serve
agent    what runs on the hosts: starts and stops stacks, counts their CPU, sends load. Standard library alone
wire     talks to the agents
plan     what is measured: stacks, cases, rounds
measure  the runs, one after the other
results  failures, medians with their spread, ratios
plots    the pictures
report   the page that holds all of it
cli      options, progress, exit status
"""
