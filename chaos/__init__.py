"""Break real Redis servers under a real flowcache and a steady load, and check every answer.

- `history`    the records: calls as they went, strikes as they fell, what was found afterwards
- `model`      what an honest check is, and the check
- `workload`   which calls are made, and by what sort of caller
- `client`     HTTP/1.1 over raw asyncio connections
- `load`       the load generator, a process of its own with an open loop
- `rigs`       the servers of a scenario
- `stage`      what a scenario can do: wait, strike, note what became of it
- `scenarios`  the table of scenarios
- `figures`    a history in numbers
- `bars`       what must hold
- `report`     the tables of docs/reliability.md
- `run`        the command, `make chaos`
"""
