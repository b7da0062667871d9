"""The zoo's scale: every entry, backend and peer in one run: `python -m benchmarks.run`.

- `cells`: what is to be measured, as a table
- `run`: the parent, which gives every cell a process and the competitors their turns
- `prepare`, `worker`: the processes; `peers/`: other people's software, a file each
- `rows`: the CSV files in `results/`; `report`: the documents' tables and the pictures from them
- `accuracy`: right answers instead of fast ones
- NOTES.md: what was tried for speed, and what came
"""
