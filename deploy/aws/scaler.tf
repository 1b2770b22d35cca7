# Every minute: ask the server how many workers a queue wants, and make the group larger if that is more than it has.
# It is never made smaller from here; machines leave when they are idle (deploy/vm/watch).
data "archive_file" "scaler" {
  type        = "zip"
  source_file = "${path.module}/scaler.py"
  output_path = "${path.module}/scaler.zip"
}

resource "aws_iam_role" "scaler" {
  name_prefix = "asman-scaler-"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "scaler_logs" {
  role       = aws_iam_role.scaler.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_iam_role_policy" "scaler" {
  role = aws_iam_role.scaler.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = [for secret in aws_secretsmanager_secret.queue : secret.arn]
      },
      {
        Effect   = "Allow"
        Action   = "autoscaling:SetDesiredCapacity"
        Resource = [for group in aws_autoscaling_group.worker : group.arn]
      },
      { Effect = "Allow", Action = "autoscaling:DescribeAutoScalingGroups", Resource = "*" },
    ]
  })
}

resource "aws_lambda_function" "scaler" {
  for_each         = var.worker_groups
  function_name    = "asman-scaler-${each.key}"
  role             = aws_iam_role.scaler.arn
  runtime          = "python3.12"
  handler          = "scaler.handle"
  filename         = data.archive_file.scaler.output_path
  source_code_hash = data.archive_file.scaler.output_base64sha256
  timeout          = 50

  # One at a time: two that overlap could both ask for more.
  reserved_concurrent_executions = 1

  environment {
    variables = {
      SERVER          = var.server
      SECRET          = aws_secretsmanager_secret.queue[each.key].arn
      GROUP           = aws_autoscaling_group.worker[each.key].name
      NEEDS           = each.value.gpus > 0 ? "gpu" : "cpu"
      CPUS_PER_WORKER = tostring(each.value.cpus)
      GPUS_PER_WORKER = tostring(max(each.value.gpus, 1))
    }
  }
}

resource "aws_cloudwatch_event_rule" "minute" {
  name_prefix         = "asman-scaler-"
  schedule_expression = "rate(1 minute)"
}

resource "aws_cloudwatch_event_target" "scaler" {
  for_each = var.worker_groups
  rule     = aws_cloudwatch_event_rule.minute.name
  arn      = aws_lambda_function.scaler[each.key].arn
}

resource "aws_lambda_permission" "scaler" {
  for_each      = var.worker_groups
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.scaler[each.key].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.minute.arn
}
