"""What will be measured: arms, suites, schedule, plan, environments. Starts nothing."""
