"""From episode records to intervals, tables and plots. Knows records, not how they came about."""
