"""Programs of others that the benchmarks run: fetched, checked, kept in build/."""
