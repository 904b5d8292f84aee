"""Who touched which key in which interaction: the record of every attempt.

    AuditRecord -> redaction -> chain -> journal

- `ring` keeps the newest records in memory: all there is without a journal;
- `redaction` decides how a key name is shown;
- `chain` makes records tamper-evident, and says what is wrong with those that are not whole: pure;
- `database` is the SQLite file, `writing` a worker's chain in it, `retention` what is let go of;
- `journal` takes records off the hot path to a thread, in one of two modes;
- `reading`, `verifying` and `exporting` are for those who want to know.
"""
