"""Who touched which key in which interaction: the record of every attempt.

    Attempt -> AuditRecord -> redaction -> chain -> journal

- `attempt` makes the records of one attempt: intent, outcome, correction;
- `ring` keeps the newest records in memory: all there is without a journal;
- `redaction` decides how a key name is shown;
- `chain` makes records tamper-evident, and says what is wrong with those that are not whole: pure;
- `refusals` counts unauthenticated requests above their limit, instead of recording each;
- `database` is the SQLite file, `writing` a worker's chain in it, `witness` what one chain says of
  the others, `retention` what is pruned, `vouching` whether the file still is what was written;
- `journal` takes records off the hot path to a thread, in one of two modes; `at_once` writes those
  of commands, which have no hot path;
- `reading`, `history`, `verifying` and `exporting` are for those who want to know, `received` for
  those who have what was delivered only.
"""
