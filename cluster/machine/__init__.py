"""Ray and the machines it runs on: sessions, room for a job, memory, progress."""
