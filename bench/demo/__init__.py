"""The benchmark of the demo: scenarios, servers, load, studies, reports."""
