"""Running a call: what holds whichever way it came in. It knows no HTTP.

- `running`       the steps of a call, one below the other
- `call`          what is known of one, and what came of it
- `admission`     whether there is room for one more call of a client
- `standing_lag`  which calls to refuse while the event loop is too slow for all
- `heavy`         commands that keep Redis busy for long: few at once
- `fair`          turns for what is dear, one client after the other
- `room`          how much may be held of what is dear
"""
