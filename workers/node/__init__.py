"""A worker node: the Celery parent process, its supervisor of stream processes, the one Celery task."""
