"""What people see of a running system: metrics, the rules that raise alerts of them, and Grafana's boards."""
