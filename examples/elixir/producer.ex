# Writes an order with its event in the same transaction: both are committed, or neither. A page to read: nothing
# here runs it.
defmodule Shop.Orders do
  alias Shop.Repo

  @event "SELECT pgoutbox.enqueue(topic => $1, payload => $2, aggregate_type => 'order', aggregate_id => $3)"

  def pay(order) do
    Repo.transaction(fn ->
      {1, _} = Repo.insert_all("orders", [%{id: order}])
      Repo.query!(@event, ["order.paid", %{order: order, step: 1}, to_string(order)])
    end)
  end
end
