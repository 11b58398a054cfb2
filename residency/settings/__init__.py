"""The users' settings: inputs of our nodes, policies per component, settings for all workflows, a prompt's own."""
