"""Statistics of cohorts as plain functions of arrays: groups, markers, correlations, agreement, sites, norms, compression, clusters."""
