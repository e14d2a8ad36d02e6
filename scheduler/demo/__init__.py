"""`cbtfleet demo`: the whole of it on a simulated pool, with parts that this machine brings along.

stage.py    the parts, each a process: simulator, S3 server, Redis, scheduler, two workers
story.py    what happens: full backup, guest writes, incremental, restores, comparison
summary.py  what a person reads at the end
"""
