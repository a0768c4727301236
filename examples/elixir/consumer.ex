# Takes events from RabbitMQ, and does the work of each once. A page to read: nothing here runs it.
#
# The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a repeat
# finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
#
# {:amqp, "~> 4.0"}, {:ecto_sql, "~> 3.12"}, {:postgrex, "~> 0.20"}, {:jason, "~> 1.4"}
defmodule Shop.Consumer do
  use GenServer

  alias Shop.Repo

  def start_link(queue), do: GenServer.start_link(__MODULE__, queue)

  @impl true
  def init(queue) do
    {:ok, connection} = AMQP.Connection.open(System.fetch_env!("AMQP_URL"))
    # Where the connection goes, this process goes, and its supervisor starts it again.
    Process.link(connection.pid)
    {:ok, channel} = AMQP.Channel.open(connection)
    :ok = AMQP.Basic.qos(channel, prefetch_count: 20)
    {:ok, _tag} = AMQP.Basic.consume(channel, queue)
    {:ok, channel}
  end

  # One message after the other, as they come.
  @impl true
  def handle_info({:basic_deliver, body, meta}, channel) do
    case once(meta.message_id, Jason.decode!(body)) do
      {:ok, _} -> AMQP.Basic.ack(channel, meta.delivery_tag)
      # Again at once, until the queue's own limit. (nack does not count as a try from RabbitMQ 4.3 on.)
      {:error, _reason} -> AMQP.Basic.reject(channel, meta.delivery_tag, requeue: true)
    end

    {:noreply, channel}
  end

  def handle_info({:basic_consume_ok, _}, channel), do: {:noreply, channel}
  def handle_info({:basic_cancel, _}, channel), do: {:stop, :cancelled, channel}

  defp once(message_id, event) do
    Repo.transaction(fn ->
      entry = [%{message_id: message_id}]
      case Repo.insert_all("inbox", entry, on_conflict: :nothing) do
        {1, _} -> work(event)
        {0, _} -> :done_before
      end
    end)
  end

  defp work(%{"order" => order, "step" => step}) do
    {1, _} = Repo.insert_all("shipments", [%{order_id: order, step: step}])
  end
end
