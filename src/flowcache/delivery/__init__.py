"""The audit journal, carried elsewhere: at least once, in order per writer, in its own process.

    journal -> feed -> loop -> destination
                        |
                     progress

- `feed` cuts what a destination has not had yet into a `batch` of one writer after the other;
- `loop` hands over one batch at a time, and tries again until it is taken: one loop a destination;
- `stream`, `lines` and `endpoint` are the destinations; that of CXone is an endpoint, too;
- `progress` keeps how far each destination is, in a file next to the journal;
- `overview` compares that with the journal, and `watch` shares it among those who ask;
- `process` runs the loops, one process a journal.
"""
