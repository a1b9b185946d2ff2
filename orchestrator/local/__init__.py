"""onelane on one machine: `up`, its supervisor, ports, data directory, schema, `doctor`."""
