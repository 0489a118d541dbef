"""The doctor, in front of real proxies that do what real proxies do."""
