"""The names of Luigi's own sections of luigi.cfg, so that every other name is known for a mistake without Luigi."""

# Of any of Luigi's modules.
LUIGI_SECTIONS = frozenset({
    "OpenPai", "azureblob", "batch_email", "batch-notifier", "batch_notifier", "bigquery", "core", "cors", "datadog",
    "dataproc", "dockerconfig", "elasticsearch", "email", "execution_summary", "formatters", "hadoop", "hadoopcli",
    "handlers", "hdfs", "hive", "kubernetes", "loggers", "logging", "metrics", "mssql", "mysql", "pig", "postgres",
    "presto", "prometheus", "pyspark_runner", "redis", "redshift", "resources", "retcode", "s3", "salesforce",
    "scalding", "scheduler", "sendgrid", "sge", "simulate", "smtp", "spark", "sqlalchemy", "task_history", "webhdfs",
    "worker",
})  # fmt: skip
# The beginnings of those of a logging_conf_file, which may be luigi.cfg itself.
LOGGING = ("formatter_", "handler_", "logger_", "logging.")
