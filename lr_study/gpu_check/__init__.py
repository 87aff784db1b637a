"""What anyone with a GPU can run and send with a report: does lr_study do there what it should?

check.py runs the parts of parts.py one after the other, each a process with a time limit of its
own, and keeps what each has found as soon as it has found it. training.py holds what the parts
start in further processes. All of it runs on a CPU too, shrunk.
"""
