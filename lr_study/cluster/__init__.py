"""The waves of a study as tasks of a Ray cluster. Nothing here imports Ray before it is asked for.

driver.py plans and watches, in the process of the command; worker.py trains a wave, in a process
that Ray starts on some machine; lease.py lets only one of them at a time write a wave's files.
"""
