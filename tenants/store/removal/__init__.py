"""What removes rows: pruning and erasures; and exports, which read the same rows before."""
