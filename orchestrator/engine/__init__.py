"""The engine: Ray Tune schedules and transports, the store is the truth.

Every launch is a fresh Tune experiment over what the store says is missing. `session` decides
(torch- and Ray-free, so it is tested by itself), `tune` connects it to Ray, `attempt` is what runs
inside a worker process, `launch` puts them together.
"""
