"""Results in and out as files: what `orch export` writes and `orch import` reads.

`files` knows CSV and Parquet, `fields` what a row's values may be, `rows` gathers rows into runs
(`told`), and `runs` says which runs of a store those are.
"""
