"""What operators reach over HTTP: health, metrics, documentation, the inspector.

- `pages`      all pages
- `routing`    from a path to a page, and its answer
- `constant`   pages that are made once
- `shared`     pages that are made once for all who ask at the same time, always anew
- `line`       work that is done one by one
- `switching`  an operator's orders about circuits, carried out and on record
- `inspector`  what the service knows of itself, for people
- `openapi`    the contract as a document, made from the catalogue
- `docs`       the same as a page
"""
